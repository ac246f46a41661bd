package org.etpipeline.core.grammar

import kotlinx.serialization.json.Json
import kotlinx.serialization.json.JsonElement

/** Schemas of many kinds, by name. */
internal val SCHEMAS: Map<String, JsonElement> = mapOf(
    "symptoms" to """{"type": "object", "title": "Advice", "properties": {
        "urgency": {"enum": ["emergency", "today", "soon", "at home"], "description": "how soon to see a doctor"},
        "advice": {"type": "array", "items": {"type": "string", "minLength": 5, "maxLength": 60}, "minItems": 1,
            "maxItems": 3},
        "doctor_if": {"type": "string", "minLength": 1, "maxLength": 80}},
        "required": ["urgency", "advice", "doctor_if"], "additionalProperties": false}""",
    "optional" to """{"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"},
        "ab": {"type": "integer"}, "c": {"type": "string"}, "d": {"type": ["string", "null"]}},
        "required": ["ab"]}""",
    "none required" to """{"properties": {"x": {"type": "number"}, "y": {"type": "number"}, "é\"\\": {}}}""",
    "tree" to """{"${'$'}defs": {"node": {"type": "object", "properties": {"value": {"type": "integer"},
        "children": {"type": "array", "items": {"${'$'}ref": "#/${'$'}defs/node"}}},
        "required": ["value", "children"]}}, "${'$'}ref": "#/${'$'}defs/node"}""",
    "list" to """{"type": "object", "properties": {"head": {"type": "string", "maxLength": 3},
        "tail": {"anyOf": [{"type": "null"}, {"${'$'}ref": "#"}]}}, "required": ["head", "tail"],
        "additionalProperties": false}""",
    "words" to """{"type": "array", "items": {"enum": ["ä", "日本", "😀", "a\"b\\", "été", 1, 2.5, null, true,
        {"k": [1, "x"]}, "\u0001"]}, "minItems": 2}""",
    "ranges" to """{"type": "object", "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "below": {"type": "integer", "minimum": -273, "exclusiveMaximum": -17},
        "across": {"type": "integer", "exclusiveMinimum": -5.5, "maximum": 1234567},
        "large": {"type": "integer", "minimum": 98765},
        "degrees": {"type": "number", "minimum": -40, "maximum": 43},
        "share": {"type": "number", "minimum": 0, "maximum": 1},
        "cold": {"type": "number", "maximum": -3}},
        "required": ["age", "below", "across", "large", "degrees", "share", "cold"]}""",
    "patterns" to """{"type": "object", "properties": {
        "phone": {"type": "string", "pattern": "^\\+?[0-9]{3,12}${'$'}"},
        "quoted": {"type": "string", "pattern": "^[\"\\\\\\n a-c\\u00e9]{1,8}${'$'}"},
        "holds": {"type": "string", "pattern": "[A-Z]\\d"},
        "either": {"type": "string", "pattern": "^ja|nein${'$'}"},
        "other": {"type": "string", "pattern": "^[^\\s\\w]+${'$'}"}},
        "required": ["phone", "quoted", "holds", "either", "other"]}""",
    "formats" to """{"type": "array", "prefixItems": [{"type": "string", "format": "date"},
        {"type": "string", "format": "date-time"}, {"type": "string", "format": "email"},
        {"type": "string", "format": "uuid"}, {"type": "string", "format": "time"}], "minItems": 4}""",
    "extra" to """{"type": "object", "properties": {"name": {"type": "string"}, "nam": {"const": [1, {"a": null}]}},
        "required": ["nam"], "additionalProperties": {"type": "integer", "minimum": 0}}""",
    "anything" to """{"type": "array", "items": true, "maxItems": 4}""",
    "merged" to """{"allOf": [{"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
        {"properties": {"shape": {"oneOf": [
            {"type": "object", "properties": {"kind": {"const": "circle"}, "radius": {"type": "number"}},
                "required": ["kind", "radius"], "additionalProperties": false},
            {"type": "object", "properties": {"kind": {"const": "corner"}, "at": {"type": "array",
                "prefixItems": [{"type": "integer"}, {"type": "integer"}], "items": {"type": "boolean"},
                "minItems": 2, "maxItems": 5}}, "required": ["kind", "at"], "additionalProperties": false}]}},
            "required": ["shape"]}]}""",
    "crowded" to """{"anyOf": [{"type": "array", "items": {"${'$'}ref": "#"}, "minItems": 1}, {"type": "null"},
        {"type": "array", "items": {"${'$'}ref": "#"}, "minItems": 1}, {"type": "array", "items": {"${'$'}ref": "#"},
            "maxItems": 3}]}""",
    "kinds" to """{"properties": {"dots": {"type": "string", "pattern": "^.{2,150}${'$'}"},
        "letters": {"type": "string", "pattern": "^[a-zé\"\\\\]*${'$'}"}}, "required": ["dots", "letters"]}""",
).mapValues { (_, text) -> Json.parseToJsonElement(text) }
