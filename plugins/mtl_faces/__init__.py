"""Faces: tasks (emotion, head pose, gender), data sets, and a renderer of faces with exact labels."""
