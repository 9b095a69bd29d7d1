"""What modules of 3D Slicer see of its module Sample Data."""

from __future__ import annotations

from types import SimpleNamespace

import slicer


class SampleDataLogic:
    """Keeps what is registered; the source that Slicer brings along has made-up addresses."""

    def __init__(self) -> None:
        own = SimpleNamespace(
            sampleName="CTMRBrain",
            uris=("https://ct", "https://t1", "https://t2"),
            fileNames=("CT-brain.nrrd", "MR-brain-T1.nrrd", "MR-brain-T2.nrrd"),
            nodeNames=("CTBrain", "MRBrainT1", "MRBrainT2"),
            checksums=("SHA256:0", "SHA256:1", "SHA256:2"),
            loadFiles=[None, None, None],
            loadFileType=["VolumeFile"] * 3,
            thumbnailFileName=None,
        )
        slicer.modules.sampleDataSources.setdefault("General", [own])

    def sourceForSampleName(self, name: str):
        sources = [each for group in slicer.modules.sampleDataSources.values() for each in group]
        return next((each for each in sources if each.sampleName == name), None)

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileType="VolumeFile",
        loadFiles=None,
        loadFileProperties=None,
        checksums=None,
    ) -> None:
        assert isinstance(uris, (list, tuple))
        files = zip(uris, fileNames, nodeNames, checksums, strict=True)
        source = SimpleNamespace(
            sampleName=sampleName,
            uris=uris,
            fileNames=fileNames,
            nodeNames=nodeNames,
            checksums=checksums,
            loadFiles=loadFiles,
            loadFileType=loadFileType,
            loadFileProperties=loadFileProperties,
            thumbnailFileName=thumbnailFileName,
            customDownloader=customDownloader,
            files=list(files),
        )
        group = slicer.modules.sampleDataSources.setdefault(category, [])
        if source not in group:
            group.append(source)
