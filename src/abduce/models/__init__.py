"""Models: ``model.py`` is the interface of all that can be asked, and every family of models or energies is a file."""
