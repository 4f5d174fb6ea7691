"""
A molecule and a slab in a field
================================

A uniform field of strength :math:`E` along an axis adds the energy :math:`-\\boldsymbol\\mu\\cdot\\boldsymbol E`.
"""
