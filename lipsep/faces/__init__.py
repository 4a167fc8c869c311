"""Who is visible: frames in, one FaceTrack per person out."""
