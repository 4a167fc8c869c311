"""Separation over HTTP: submit, poll, fetch, cancel. Needs the extra `serve`."""
