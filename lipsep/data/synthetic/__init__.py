"""Talkers that exist nowhere: babble, visemes and the scenes made of them."""
