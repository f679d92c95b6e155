"""Files of detectors: opened lazily, and imported as calibrated HDF5."""

from pypty.readers.importing import import_file, params_of
from pypty.readers.nion import read_nion_json
from pypty.readers.opening import open_recording
from pypty.readers.recording import Metadata, Recording

__all__ = ["Metadata", "Recording", "import_file", "open_recording", "params_of", "read_nion_json"]
