"""Video encoders: lip pictures in, one feature vector per video frame out."""
