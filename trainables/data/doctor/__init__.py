"""The data doctor: what in an image data set can make a training go wrong, found before it starts.

One pass reads each image once into a small record (`facts`); each check is a function over the records.
"""
