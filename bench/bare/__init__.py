"""Servers with nothing around the loop that moves the bytes: yardsticks.

They check nothing: never use them for real.
"""
