// Package regions reads the registries of other regions. A stream of the own region
// sources their buckets ([Sources.Make]); announcers and routers maintain it
// ([Sources.Keep], see docs/decisions/0019); and what is listed in both buckets is put
// together ([Combine]).
package regions
