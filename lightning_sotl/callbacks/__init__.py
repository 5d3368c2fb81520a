"""The logic of the callbacks, which imports neither Lightning package.

`lightning_sotl.pytorch_lightning` and `lightning_sotl.lightning` add each package's base class.
"""
