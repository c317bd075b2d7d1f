//go:build !linux && !darwin && !freebsd

package dump

// diskSpace is not known here.
func diskSpace(string) (free, total uint64, known bool) { return 0, 0, false }
