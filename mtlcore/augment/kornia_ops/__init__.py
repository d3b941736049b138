"""The operations of kornia as an augmentation of mtlcore.

`catalog` knows each operation and its fields, `draws` draws their parameters from a given
generator, `movement` says where pixels went, `canvas` applies a list of operations to images, and
`augmentation` is the component.
"""
