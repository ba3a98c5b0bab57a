"""Scaling-law studies: structures trained at several widths, fitted and compared."""
