"""Settings with which each operation of kornia has a visible effect, for tests and the docs."""

from __future__ import annotations

CASES: dict[str, dict[str, object]] = {
    "AutoAugment": {},
    "CenterCrop": {"size": [32, 32]},
    "ColorJiggle": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
    "ColorJitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
    "PadTo": {"size": [48, 48]},
    "RandAugment": {"n": 2, "m": 9},
    "RandomAffine": {"degrees": 30.0, "translate": [0.1, 0.1], "scale": [0.8, 1.2], "shear": 10.0},
    "RandomBrightness": {"brightness": [0.7, 1.4]},
    "RandomContrast": {"contrast": [0.6, 1.4]},
    "RandomCrop": {"size": [32, 32], "padding": 4},
    "RandomElasticTransform": {"kernel_size": [15, 15], "sigma": [4.0, 4.0]},
    "RandomFisheye": {"center_x": [-0.3, 0.3], "center_y": [-0.3, 0.3], "gamma": [0.9, 1.0]},
    "RandomGamma": {"gamma": [0.7, 1.5]},
    "RandomGaussianBlur": {"kernel_size": [3, 3], "sigma": [0.5, 2.0]},
    "RandomGaussianNoise": {"std": 0.1},
    "RandomHue": {"hue": [-0.2, 0.2]},
    "RandomJPEG": {"jpeg_quality": [20.0, 60.0]},
    "RandomMotionBlur": {"kernel_size": [3, 5], "angle": 30.0, "direction": [-1.0, 1.0]},
    "RandomPerspective": {"distortion_scale": 0.4},
    "RandomPosterize": {"bits": [2.0, 4.0]},
    "RandomRain": {"number_of_drops": [5, 10], "drop_height": [3, 6], "drop_width": [-2, 2]},
    "RandomResizedCrop": {"scale": [0.4, 0.9]},
    "RandomRotation": {"degrees": 30.0},
    "RandomRotation90": {"times": [-1, 2]},
    "RandomSaturation": {"saturation": [0.5, 1.5]},
    "RandomShear": {"shear": 15.0},
    "RandomSnow": {"snow_coefficient": [0.3, 0.6], "brightness": [1.5, 2.5]},
    "RandomTranslate": {"translate_x": [-0.2, 0.2], "translate_y": [-0.2, 0.2]},
    "TrivialAugment": {},
}
"""Operation -> fields. An operation that is not listed has an effect with its defaults."""
