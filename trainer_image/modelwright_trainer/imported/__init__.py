"""What other software has left in a store, as a version: looked at strictly, and loaded only where nothing is wrong."""
