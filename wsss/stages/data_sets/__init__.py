"""The settings of every data set, and the functions that open them."""
