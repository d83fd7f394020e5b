"""Models: energies.  ``energy.py`` and ``latent.py`` are the two interfaces; every other file is one family."""
