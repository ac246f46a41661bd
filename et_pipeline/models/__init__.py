"""Decoders and encoders in export form."""
