"""Predict images: any source -> one prediction for each image or region, in words and units."""
