"""Poses are clean, in single precision too, or one line says which is not."""

from __future__ import annotations

import numpy as np
import pytest

from mobiler2l_ns.capture.poses import clean_poses, move_to_zero, pose_matrix, stand_at_one_place, stand_far_away
from mobiler2l_ns.errors import UserError

POSE = np.array([[0.0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("given", [POSE, POSE[:3], 2 * POSE], ids=["4 x 4", "3 x 4", "homogeneous"])
def test_a_pose_is_4_x_4(given):
    np.testing.assert_array_equal(pose_matrix(given.tolist(), "photo"), POSE)


def test_a_scale_is_taken_out_of_the_rotation_only():
    scaled = POSE.copy()
    scaled[:3] *= 1.7
    got = pose_matrix(scaled, "photo")
    np.testing.assert_allclose(got[:3, :3], POSE[:3, :3], atol=1e-12)
    np.testing.assert_allclose(got[:3, 3], 1.7 * POSE[:3, 3])


def test_what_is_near_to_a_rotation_is_left_as_it_is():
    rounded = POSE + np.diag([1e-5, 0, 0, 0])
    assert np.array_equal(pose_matrix(rounded, "photo"), rounded)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m * np.nan, "holds NaN or infinity"),
        (lambda m: m @ np.diag([1, 1, -1, 1]), "mirrors the scene"),
        (lambda m: m @ np.diag([1, 1, 2, 1]), "no rotation"),
        (lambda m: m * np.array([[0], [0], [0], [1]]), "no rotation"),
        (lambda m: m.T, "last row .* not 0 0 0 1"),
        (lambda m: m[:2], "is 2 x 4"),
        (lambda m: [["a"] * 4] * 4, "does not hold"),
    ],
)
def test_what_is_no_pose_is_one_line(change, words):
    with pytest.raises(UserError, match=f"photo: .*{words}"):
        pose_matrix(change(POSE), "photo")


def frames(places):
    poses = np.repeat(POSE[None], len(places), axis=0)
    poses[:, :3, 3] = places
    return [{"file_path": f"{i}", "transform_matrix": pose.tolist()} for i, pose in enumerate(poses)]


def test_far_cameras_are_centred_in_double_precision(tmp_path):
    near = np.array([[0.0, 0, 0], [0.01, 0, 0], [0.02, 0.01, 0]])
    far = frames(near + [468000.0, 5278000.0, 410.0])
    assert stand_far_away(far) and not stand_far_away(frames(near)) and not stand_at_one_place(far)
    assert clean_poses(far, tmp_path) == []
    middle = move_to_zero(far)
    np.testing.assert_allclose(middle, near.mean(0) + [468000.0, 5278000.0, 410.0])
    got = np.array([frame["transform_matrix"] for frame in far])[:, :3, 3]
    np.testing.assert_allclose(got, near - near.mean(0), atol=1e-8)


def test_cameras_at_one_place_stand_there_exactly():
    place = frames(np.array([[1.0, 2, 3]] * 3) + [[0, 0, 0], [1e-9, 0, 0], [0, 0, 1e-9]])
    assert stand_at_one_place(place) and not stand_at_one_place(frames([[0.0, 0, 0], [1e-4, 0, 0]]))
    move_to_zero(place)
    assert all(frame["transform_matrix"][row][3] == 0.0 for frame in place for row in range(3))
