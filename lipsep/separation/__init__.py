"""Mixture and lips in, one waveform per person out, for any length in bounded memory."""
