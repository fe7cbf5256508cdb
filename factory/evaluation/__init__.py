"""`evaluate`: what a model can do, measured on items that it was not made from, with how sure that is."""
