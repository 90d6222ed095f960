"""What stands in the pages and follows from the code: `python -m docs.made` writes it, a test says if it is not current.

A page has a block for each, between two comments that neither GitHub nor the site shows. What stands around it is written by
hand.
"""
