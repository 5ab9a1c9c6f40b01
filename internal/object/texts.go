package object

// MapTexts returns a copy of a value, as JSON has them, with all texts replaced that
// are no keys.
func MapTexts(value any, replace func(string) any) any {
	switch v := value.(type) {
	case string:
		return replace(v)
	case map[string]any:
		mapped := make(map[string]any, len(v))
		for key, child := range v {
			mapped[key] = MapTexts(child, replace)
		}
		return mapped
	case []any:
		mapped := make([]any, 0, len(v))
		for _, child := range v {
			mapped = append(mapped, MapTexts(child, replace))
		}
		return mapped
	}
	return value
}
