"""Sources of frames: files, folders of images, cameras and streams, all with the protocol `FrameSource`.

`open_source` opens any of them by its name. Frames are read lazily, one at a time.
"""

from etam_edge.media.opencv import import_opencv
from etam_edge.media.sources.folder import ImageFolder
from etam_edge.media.sources.gstreamer import Pipeline
from etam_edge.media.sources.images import IMAGE_SUFFIXES, load_image, read_image
from etam_edge.media.sources.live import Camera, NetworkStream
from etam_edge.media.sources.opening import open_source, shown_source
from etam_edge.media.sources.raw import RawFrames
from etam_edge.media.sources.section import Moment, Section
from etam_edge.media.sources.types import Cause, Ending, FrameSource, NamedFrame, SourceOptions
from etam_edge.media.sources.video import VideoFile

__all__ = [
    "IMAGE_SUFFIXES",
    "Camera",
    "Cause",
    "Ending",
    "FrameSource",
    "ImageFolder",
    "Moment",
    "NamedFrame",
    "NetworkStream",
    "Pipeline",
    "RawFrames",
    "Section",
    "SourceOptions",
    "VideoFile",
    "import_opencv",
    "load_image",
    "open_source",
    "read_image",
    "shown_source",
]
