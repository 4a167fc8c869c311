"""Separation over HTTP: submit, poll, fetch, cancel. Needs `pip install 'lipsep[serve]'`."""
