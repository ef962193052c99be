package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Schema is the JSON schema of the document (draft 2020-12), indented. It has the rules
// of [Decode] but those that concern several fields, and the grammar of expressions.
func Schema() []byte {
	s := schemaOf(reflect.TypeFor[Policy](), "")
	s["$schema"], s["title"] = "https://json-schema.org/draft/2020-12/schema", "Policy of a service"
	s["description"] = "How calls to a service are made. A field that is not set says nothing."
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("policy: the schema: %v", err)) // it has maps, lists, text and numbers only
	}
	return append(data, '\n')
}

func schemaOf(t reflect.Type, tag reflect.StructTag) map[string]any {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	s := map[string]any{}
	if doc := tag.Get("doc"); doc != "" {
		s["description"] = doc
	}
	if t == reflect.TypeFor[Duration]() {
		s["type"], s["pattern"] = "string", `^[0-9.]+(ns|us|µs|ms|s|m|h)([0-9.]+(ns|us|µs|ms|s|m|h))*$`
		s["description"] = tag.Get("doc") + " A duration" + bounds(tag) + "."
		return s
	}
	switch t.Kind() {
	case reflect.Struct:
		properties, must := map[string]any{}, []string{}
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			properties[name] = schemaOf(f.Type, f.Tag)
			if _, ok := f.Tag.Lookup("must"); ok {
				must = append(must, name)
			}
		}
		s["type"], s["properties"], s["additionalProperties"] = "object", properties, false
		if len(must) > 0 {
			s["required"] = must
		}
		if t == reflect.TypeFor[Key]() {
			s["minProperties"], s["maxProperties"] = 1, 1
		}
	case reflect.Slice:
		s["type"] = "array"
		s["maxItems"], _ = strconv.Atoi(tag.Get("most"))
		items := schemaOf(t.Elem(), tag)
		delete(items, "description")
		s["items"] = items
	case reflect.Bool:
		s["type"] = "boolean"
	case reflect.Int, reflect.Float64:
		s["type"] = map[reflect.Kind]string{reflect.Int: "integer", reflect.Float64: "number"}[t.Kind()]
		s["minimum"], s["maximum"] = number(tag.Get("min")), number(tag.Get("max"))
	case reflect.String:
		s["type"] = "string"
		if enum := tag.Get("enum"); enum != "" {
			s["enum"] = strings.Split(enum, ",")
		}
		if tag.Get("is") == "name" {
			s["pattern"] = "^[A-Za-z0-9_-]{1,63}$"
		}
	}
	return s
}
