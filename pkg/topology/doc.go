// Package topology defines locations, and the circles of nearness between them.
//
// A [Location] is region, zone, rack and host, each of which may be unknown.
// [Levels] are the keys that nearness is judged by. They divide all places into
// circles, from the nearest to elsewhere.
//
// [Detect] finds the location of this process with one [Detector] after the other:
// configured values ([Fixed]), the environment ([Environment]), a file that the
// platform wrote ([File]), a table of networks ([CIDR], [CIDRFile]). For each field
// the first detector that knows it wins. A field that no detector knows stays
// unknown: nothing is guessed.
package topology
