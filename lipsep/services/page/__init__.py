"""The web page: a video is dropped, faces appear, voices are heard one at a time. Needs the extra `web`."""
