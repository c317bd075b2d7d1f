package responsesproxygate

// On Windows, the directory's access control list decides who can use a
// socket, and there is no umask.
func auditSocketDir(string) error { return nil }

func dropOthersWriteRights() {}
