"""What may lie beside a camera in a bag: topics with definitions of every kind."""

from __future__ import annotations

from foreign import Channel

CDR = b'\0\1\0\0abcdefgh'
SERVICE = (
    '=' * 80 + '\nSRV: example_interfaces/srv/AddTwoInts\nint64 a\nint64 b\n---\nint64 sum\n'
).encode()
IDL = b"""module far_msgs { module msg { struct Thing { double x; sequence<octet> data; }; }; };"""
OF_PARTS = b'Part part\n' + b'=' * 80 + b'\nMSG: far_msgs/Part\nint32 x\n'
# As rosidl writes it, and rosbag2 puts it together.
GENERATED_IDL = b"""// generated from rosidl_adapter/resource/msg.idl.em

#include "std_msgs/msg/Header.idl"
  #  include <far_msgs/msg/Part.idl>
#define LONG \\
  line

module far_msgs {
  module msg {
    typedef double double__2[2];
    module Thing_Constants {
      const string NAME = "#x";
    };
    @verbatim (language="comment", text=
      "# What it is." "\\n"
      "and more")
    struct Thing {
      std_msgs::msg::Header header;

      @unit (value="m")
      double__2 size;
    };
  };
};
"""
ACTION = (
    b'unique_identifier_msgs/UUID goal_id\nfar_msgs/action/Go_Feedback feedback\n'
    + b'=' * 80
    + b'\nMSG: unique_identifier_msgs/UUID\nuint8[16] uuid\n'
    + b'=' * 80
    + b'\nMSG: far_msgs/action/Go_Feedback\nint32[] left\n'
)
FEEDBACK = b'\0\1\0\0' + bytes(range(16)) + b'\1\0\0\0\7\0\0\0'
FIVE = b'\0\1\0\0\5\0\0\0'
# What lies on /other beside the camera, and what is said of it.
UNREADABLE = {
    'service event': (
        Channel('example_interfaces/srv/AddTwoInts_Event', 'ros2msg', SERVICE),
        'cannot be parsed',
    ),
    'service event in two parts': (
        Channel(
            'example_interfaces/srv/AddTwoInts_Event', 'ros2msg', b'int64 a\n---\nint64 sum\n'
        ),
        'cannot be parsed',
    ),
    'unknown': (Channel('far_msgs/msg/Thing', 'unknown'), 'no definition of far_msgs/msg/Thing'),
    'empty': (Channel('far_msgs/msg/Thing', ''), 'no definition of far_msgs/msg/Thing'),
    'part of it missing': (
        Channel('far_msgs/msg/Thing', 'ros2msg', b'far_msgs/Part part\n'),
        r'no definition of far_msgs/msg/Part \(nested in far_msgs/msg/Thing\), neither in the bag '
        'nor here; source the workspace that contains far_msgs',
    ),
    'broken': (Channel('far_msgs/msg/Thing', 'ros2msg', b'int32 [[[ x\n'), 'cannot be parsed'),
    'broken IDL': (Channel('far_msgs/msg/Thing', 'ros2idl', b'module {'), 'cannot be parsed'),
    'another language': (Channel('far_msgs/msg/Thing', 'yaml', b'a: b'), 'cannot be parsed'),
    'JSON': (Channel('battery', 'jsonschema', b'{}', 'json'), 'battery, json'),
    'protobuf': (
        Channel('foxglove.Log', 'protobuf', b'\n\0', 'protobuf'),
        r'Foxglove messages \(foxglove\.Log, protobuf\)',
    ),
    'flatbuffer': (Channel('my.Thing', 'flatbuffer', b'\n\0', 'flatbuffer'), 'flatbuffer'),
    'CBOR': (Channel('my.Thing', '', b'', 'cbor'), 'cbor'),
    'no schema': (Channel('', '', b''), 'has no message type'),
    'no schema, JSON': (Channel('', '', b'', 'json'), 'no type, json'),
    'no name of ROS': (Channel('Thing', 'ros2msg', b'int32 x\n'), "'Thing' is not a ROS type"),
    'ROS 1 with other fields': (
        Channel('sensor_msgs/Range', 'ros1msg', b'uint32 seq\nfloat32 range\n', 'ros1'),
        'other fields',
    ),
    'ROS 1 alone': (
        Channel('far_msgs/Thing', 'ros1msg', b'int32 x\n', 'ros1'),
        'no ROS 2 definition of far_msgs/msg/Thing; if there is one, source the workspace that '
        'contains far_msgs',
    ),
    'ROS 1 alone, of a package that ROS 2 has': (
        Channel('std_msgs/Time', 'ros1msg', b'time data\n', 'ros1'),
        'no ROS 2 definition of std_msgs/msg/Time',
    ),
    'wide string': (
        Channel('far_msgs/msg/Thing', 'ros2msg', b'int32 x\n  wstring[] names\n'),
        'Thing has a field of the unsupported type wstring',
    ),
    'wide string in a part': (
        Channel('far_msgs/msg/Thing', 'ros2msg', OF_PARTS.replace(b'int32 x', b'wstring x')),
        'Thing has a field of the unsupported type wstring',
    ),
    'wide string in IDL': (
        Channel('far_msgs/msg/Thing', 'ros2idl', IDL.replace(b'double x', b'wstring<4> x')),
        'Thing has a field of the unsupported type wstring',
    ),
    'enumeration': (
        Channel(
            'far_msgs/msg/Thing',
            'ros2idl',
            b'module far_msgs { module msg { enum Kind { A, B }; struct Thing { Kind x; }; }; };',
        ),
        'unsupported type: enum Kind',
    ),
    'action in IDL': (
        Channel(
            'far_msgs/action/Go_FeedbackMessage',
            'ros2idl',
            b'module far_msgs { module action { struct Go_FeedbackMessage { double x; }; }; };',
        ),
        r'Go_FeedbackMessage cannot be written: .* needs a ros2msg definition in the bag\.',
    ),
}
READABLE = {
    'two parts': (Channel('std_msgs/Int32', 'ros2msg', b'int32 data\n'), b'\0\1\0\0\5\0\0\0'),
    'parts of IDL': (
        Channel('std_msgs::msg::Int32', 'ros2msg', b'int32 data\n'),
        b'\0\1\0\0\5\0\0\0',
    ),
    'char': (Channel('far_msgs/msg/Letter', 'ros2msg', b'char data\n'), b'\0\1\0\0\5\0\0\0'),
    'several char': (
        Channel('far_msgs/msg/Word', 'ros2msg', b'char[4] data\nchar[] more\n'),
        b'\0\1\0\0abcd\1\0\0\0e\0\0\0',
    ),
    'IDL': (Channel('far_msgs/msg/Thing', 'ros2idl', IDL), b'\0\1\0\0' + bytes(12)),
    'known, without definition': (Channel('std_msgs/msg/Int32', ''), b'\0\1\0\0\5\0\0\0'),
    'IDL as rosidl writes it': (
        Channel('far_msgs/msg/Thing', 'ros2idl', GENERATED_IDL),
        b'\0\1\0\0' + bytes(8) + b'\2\0\0\0a\0\0\0' + bytes(16),
    ),
    'parts of IDL as rosbag2 joins them, lines of Windows': (
        Channel(
            'far_msgs/msg/Whole',
            'ros2idl',
            (
                b'=' * 80
                + b'\nIDL: far_msgs/msg/Whole\n#include "far_msgs/msg/Thing.idl"\n'
                + b'module far_msgs { module msg { struct Whole { far_msgs::msg::Thing a; };'
                + b' }; };\n'
                + b'=' * 80
                + b'\nIDL: far_msgs/msg/Thing\n'
                + GENERATED_IDL
            ).replace(b'\n', b'\r\n'),
        ),
        b'\0\1\0\0' + bytes(8) + b'\2\0\0\0a\0\0\0' + bytes(16),
    ),
    'lines of Windows': (Channel('std_msgs/msg/Int32', 'ros2msg', b'int32 data\r\n'), FIVE),
    'lines of Windows, parts': (
        Channel(
            'far_msgs/msg/Thing',
            'ros2msg',
            b'\xef\xbb\xbf# It is\r\nint32 K=1\r\n\r\n' + OF_PARTS.replace(b'\n', b' \r\n'),
        ),
        FIVE,
    ),
    'lines of an old Mac': (
        Channel('far_msgs/msg/Thing', 'ros2msg', b'# It is\rint32 data\r'),
        FIVE,
    ),
    'constants of every text': (
        Channel(
            'far_msgs/msg/Thing',
            'ros2msg',
            b'string A="#a"\nstring B=\'"b\'\nstring C=""\nstring D=d e\nint32 x\n',
        ),
        FIVE,
    ),
    'known, with a broken definition': (
        Channel('std_msgs/msg/Int32', 'ros2msg', b'int32 [[[ data\n'),
        FIVE,
    ),
    'known, in another language': (Channel('std_msgs/msg/Int32', 'yaml', b'data: int32'), FIVE),
    'feedback of an action': (
        Channel('far_msgs/action/Go_FeedbackMessage', 'ros2msg', ACTION),
        FEEDBACK,
    ),
    'feedback of an action, lines of Windows': (
        Channel('far_msgs/action/Go_FeedbackMessage', 'ros2msg', ACTION.replace(b'\n', b'\r\n')),
        FEEDBACK,
    ),
    'goal of an action': (Channel('far_msgs/action/Go_Goal', 'ros2msg', b'int32 to\n'), FIVE),
    'no encoding named': (
        Channel('std_msgs/msg/Int32', 'ros2msg', b'int32 data\n', ''),
        b'\0\1\0\0\5\0\0\0',
    ),
}
