// Package subset reads expressions that say which instances of a service are meant:
//
//	version>=1.4,version<2,team in (a,b),!canary,zone!=us-east-1a
//
// The grammar is that of Kubernetes label selectors. An expression is a list of
// requirements, separated by commas; an instance matches if it meets all of them. The
// empty expression matches every instance.
//
//	key=value, key==value   it has the key, with that value
//	key!=value              it has another value, or not the key
//	key in (a,b)            it has one of the values
//	key notin (a,b)         it has none of the values, or not the key
//	key                     it has the key
//	!key                    it has not the key
//	key>1, >=, <, <=        it has the key, and its value compares so
//
// The keys id, version, region, zone, rack and host are those fields of an instance; a
// field that is empty is a key that it has not. Every other key is one of its metadata.
// "metadata." before a key says so for one that has the name of a field. Words are any
// characters but spaces, quotes and ,()!=<>. The four comparisons are for the version,
// and for metadata that are whole numbers, as in Kubernetes. Versions compare by semantic
// versioning: parts that are not given are 0, a v may stand before them, and 2.0.0-rc.1
// comes before 2.0.0. What is no version, or no number, meets no comparison. Equality is
// that of the text: version=2 does not mean 2.0.0.
//
// [Parse] compiles an expression once. The package has no connection, goroutine or lock.
package subset
