package topology

// ParseLabels is what [File] reads a file with.
var ParseLabels = parseLabels
