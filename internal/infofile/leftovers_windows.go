package infofile

import "os"

// removeLeftovers does nothing here: whether the writer of a temporary file still
// lives is not to be seen. What a killed gate leaves is for its owner alone.
func (f *File) removeLeftovers(*os.Root) {}

func keepLocked(*os.File) (unlock func()) { return func() {} }
