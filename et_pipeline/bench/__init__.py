"""Laboratories: our programs beside peers, and the figures of the documentation. Nothing else imports them."""
