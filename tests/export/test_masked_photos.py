"""Photos with masks are compared with packages where they are visible."""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import Cameras
from small_student import make_student

from mobiler2l_ns.export.proof import Reference
from mobiler2l_ns.export.proof_photos import undistorted


def test_a_hidden_part_of_a_photo_is_not_compared():
    student = make_student()
    view = student.view()
    camera = Cameras(student.capture.proof_poses[:1], *view.intrinsics, width=view.width, height=view.height)
    with torch.no_grad():
        picture = student.render(camera)
    mask = torch.ones(view.height, view.width, 1, dtype=torch.bool)
    mask[:, :20] = False
    photo = torch.where(mask, (picture + 0.1), torch.full_like(picture, 9.0))
    proof = undistorted(photo, camera, view, mask)
    assert proof is not None and torch.equal(proof.mask > 0, mask[..., 0])
    reference = Reference(student, [proof, *[None] * 7])
    known = reference.psnr_to_photo(0, picture.permute(2, 0, 1), view)
    assert known is not None and abs(known - 20.0) < 0.01
