"""World models: how states follow from states and actions, and plans that make what follows cheap."""
