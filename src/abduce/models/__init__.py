"""Models: ``model.py`` is the interface of all that can be asked, the other files are families of models and of energies."""
