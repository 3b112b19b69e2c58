"""What the student must remember of its capture, as buffers: a checkpoint alone can be viewed and exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mobiler2l_ns.capture.fence import ANCHORS, Fence
from mobiler2l_ns.capture.splits import PROOF_CAMERAS
from mobiler2l_ns.geometry.pose_range import PoseRange

FENCE = tuple(f"fence_{name}" for name in Fence.__annotations__)


class CaptureRecord(nn.Module):
    """Geometry of the student's pictures and of the capture they come from.

    Buffers:
        image_size: (2,) height and width of the student's pictures in pixels.
        intrinsics: (4,) fx, fy, cx, cy of the student's pictures in pixels.
        depth_range: (2,) near and far z-depth of the scene, scene units; until distillation begins a placeholder.
        depth_known: whether ``depth_range`` has been set.
        scene_centre: (3,) and scene_radius: the sphere that holds a bounded scene; radius 0 if there is none, and
            points are sampled between near and far.
        unbounded: whether the sampled points are contracted.
        world_transform: (3, 4) and world_scale: the capture's own coordinates ``x`` become ``scale * (transform @ x)``.
        start_pose: (3, 4) a camera to start looking from.
        proof_poses: (8, 3, 4) test cameras, which nothing has learned from.
        The fields of ``PoseRange``.
        fence_...: the fields of ``Fence``, zeros where nothing is known of it.
    """

    image_size: Tensor
    intrinsics: Tensor
    depth_range: Tensor
    depth_known: Tensor
    scene_centre: Tensor
    scene_radius: Tensor
    unbounded: Tensor
    world_transform: Tensor
    world_scale: Tensor
    start_pose: Tensor
    proof_poses: Tensor

    added_later = FENCE
    """Buffers that checkpoints of earlier versions lack."""

    def __init__(self) -> None:
        super().__init__()
        identity = torch.eye(4)[:3]
        for name, value in {
            "image_size": torch.ones(2, dtype=torch.long),
            "intrinsics": torch.tensor([1.0, 1.0, 0.5, 0.5]),
            "depth_range": torch.tensor([1.0, 10.0]),
            "depth_known": torch.tensor(False),
            "scene_centre": torch.zeros(3),
            "scene_radius": torch.tensor(0.0),
            "unbounded": torch.tensor(False),
            "world_transform": identity,
            "world_scale": torch.tensor(1.0),
            "start_pose": identity,
            "proof_poses": identity.repeat(PROOF_CAMERAS, 1, 1),
            "centre_box": torch.zeros(2, 3),
            "look_at": torch.zeros(3),
            "distance": torch.zeros(2),
            "elevation": torch.zeros(2),
            "azimuth": torch.zeros(2),
            "fence_inward": torch.tensor(True),
            "fence_middle": torch.zeros(3),
            "fence_distance": torch.zeros(2),
            "fence_elevation": torch.zeros(2),
            "fence_azimuth": torch.zeros(2),
            "fence_anchors": torch.zeros(ANCHORS, 2, 3),
            "fence_reach": torch.zeros(2),
        }.items():
            self.register_buffer(name, value.clone())
        self.read_flags()
        self.register_load_state_dict_pre_hook(self._keep_what_is_lacking)
        self.register_load_state_dict_post_hook(lambda module, _: module.read_flags())

    def _keep_what_is_lacking(self, _: nn.Module, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name in self.added_later:
            state.setdefault(prefix + name, self.get_buffer(name))  # type: ignore[attr-defined]

    def read_flags(self) -> None:
        """Keep what decides the course of a forward pass as plain values: reading a buffer would stall a GPU."""
        self.is_unbounded = bool(self.unbounded)
        self.has_sphere = bool(self.scene_radius > 0)
        self.is_measured = bool(self.depth_known)
        height, width = self.image_size.tolist()
        self._size = int(height), int(width)
        fx, fy, cx, cy = self.intrinsics.tolist()
        self._focals_and_centre = fx, fy, cx, cy

    def record(self, **values: Tensor) -> None:
        """Overwrite buffers by name.

        Raises:
            ValueError: if a value does not have its buffer's shape.
        """
        for name, value in values.items():
            buffer = self.get_buffer(name)
            if buffer.shape != value.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}, expected {tuple(buffer.shape)}")
            buffer.copy_(value)
        self.read_flags()

    def record_poses(self, poses: PoseRange) -> None:
        """Overwrite the range of trained poses."""
        self.record(**vars(poses))

    def record_fence(self, fence: Fence) -> None:
        """Overwrite the region of trained poses."""
        self.record(**{f"fence_{name}": value for name, value in vars(fence).items()})

    def fence(self) -> Fence:
        """The region of trained poses, on the CPU; nothing may be known of it."""
        return Fence(*(self.get_buffer(name).detach().cpu() for name in FENCE))

    def size(self) -> tuple[int, int]:
        """Height and width of the student's pictures in pixels."""
        return self._size

    def focals_and_centre(self) -> tuple[float, float, float, float]:
        """fx, fy, cx, cy of the student's pictures in pixels."""
        return self._focals_and_centre
