"""Cohort files: which images, scribbles and masks belong to which case, and what their values mean.

JSON (paths relative to the file, in any folder; absolute ones are possible too)::

    {"format": "crossmodalseg-cohort-1",
     "modalities": ["ct", "mr"],
     "labels": [{"value": 1, "name": "liver"}, {"value": 2, "name": "spleen"}],
     "scribble_convention": {"unlabelled": 255, "background": 0},
     "cases": [{"name": "a", "images": {"ct": "a/ct.nii.gz", "mr": "a/mr.nii.gz"},
                "scribbles": "a/scribbles.nii.gz", "mask": "a/mask.nii.gz", "fold": 0}]}

CSV: the labels, numbered from 1, and the convention are lines that begin with "#", then comes a table. Columns
"scribbles", "mask" and "fold" may be missing, and their cells may be empty. CSV keeps the names of the labels only;
colours and terminology follow from them. Semicolons or tabs may stand for the commas::

    # label: liver
    # label: spleen
    # scribbles: unlabelled=255 background=0
    name,image:ct,image:mr,scribbles,mask,fold
    a,a/ct.nii.gz,a/mr.nii.gz,a/scribbles.nii.gz,a/mask.nii.gz,0

A file without background scribbles says ``"background": null`` or leaves ``background=`` away. Scribbles and masks in
.seg.nrrd files need no convention: their segments are matched by name, and one called "background" holds the
background scribbles.
"""

from __future__ import annotations

from .cohort import Case, Cohort, as_file_name
from .files import read_cohort, write_cohort
from .json_file import FORMAT
from .loading import LoadedCase, load_case, on_first_grid
from .nnunet import cohort_from_nnunet
from .result_names import check_result_names

__all__ = [
    "FORMAT",
    "Case",
    "Cohort",
    "LoadedCase",
    "as_file_name",
    "check_result_names",
    "cohort_from_nnunet",
    "load_case",
    "on_first_grid",
    "read_cohort",
    "write_cohort",
]
