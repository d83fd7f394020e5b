"""Tasks: questions put to a trained model.  A task works on any model of its interface, however it was trained."""
