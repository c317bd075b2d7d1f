package process

import "golang.org/x/sys/windows"

// hardenPlatform keeps Windows Error Reporting from offering a memory dump.
// Windows has no flag that keeps the same user from reading a process.
func hardenPlatform() error {
	windows.SetErrorMode(windows.SEM_NOGPFAULTERRORBOX | windows.SEM_FAILCRITICALERRORS)
	return nil
}
