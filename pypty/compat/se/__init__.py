"""Signals from 4D data, corrections of patterns, distortions, with the names and arguments of PyPty 2.2."""

from pypty.compat.se.signals import (
    compensate_pattern_drift,
    create_binned_dataset,
    get_aperture,
    get_virtual_annular_detector,
    getvirtualhaadf,
    remove_hot_pixels,
)
from pypty.compat.se.twist import (
    find_twist_angle_ptycho_from_contrast,
    get_neg_contrast_ptycho,
)
from pypty.compat.se.warping import (
    compose_fields,
    coordinate_transformation_2d,
    coordinate_transformation_2d_areamag,
    find_ab,
    fit_vector_field,
    unwarp_4dstem_batch,
    unwarp_im,
    warp_image,
    warp_images_batch,
    warped_coordinates,
)

__all__ = [
    "compensate_pattern_drift",
    "compose_fields",
    "coordinate_transformation_2d",
    "coordinate_transformation_2d_areamag",
    "create_binned_dataset",
    "find_ab",
    "find_twist_angle_ptycho_from_contrast",
    "fit_vector_field",
    "get_aperture",
    "get_neg_contrast_ptycho",
    "get_virtual_annular_detector",
    "getvirtualhaadf",
    "remove_hot_pixels",
    "unwarp_4dstem_batch",
    "unwarp_im",
    "warp_image",
    "warp_images_batch",
    "warped_coordinates",
]
