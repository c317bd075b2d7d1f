package process

// KeepDescriptors does nothing: on Windows a program gets only the handles that
// it is given.
func KeepDescriptors() error { return nil }
