// Package topology says where something runs and how near two places are.
//
// A [Location] is region, zone, rack and host, each of which may be unknown.
// [Levels] are the keys that nearness is judged by; they cut everything into
// circles, from the same host to elsewhere.
//
// [Detect] asks one [Detector] after the other where this process runs: what
// was configured ([Fixed]), the environment ([Environment]), a file that the
// platform wrote ([File]), a table of networks ([CIDR], [CIDRFile]). For each
// field the first that knows it wins. What nobody knows stays unknown:
// nothing is guessed.
package topology
