"""Relaxation, phonons, zone-centre quantities and piezoelectric tensors of crystals."""
