package events

// For the tests of rules that others meet through Encode and Decode.
const MaxEvacuationSize = maxEvacuationSize

var ValidateEndpoint = validateEndpoint
