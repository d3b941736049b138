"""Faces: tasks (emotion, head pose, gender), datasets, and rendered faces with exact labels."""
