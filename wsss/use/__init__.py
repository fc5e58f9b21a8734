"""Using trained networks outside their recipe: from Python, on folders of pictures, and in other programs."""
