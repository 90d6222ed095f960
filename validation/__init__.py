"""The numerics: what must hold, and how is it measured?"""
