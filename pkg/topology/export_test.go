package topology

// ParseLabels is what [File] reads a file with.
var ParseLabels = parseLabels

// Forget forgets what was logged.
func Forget() { said.Clear() }
