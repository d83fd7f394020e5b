"""The scikit-learn face: one class a named method, each a short preset over the rooms below."""
