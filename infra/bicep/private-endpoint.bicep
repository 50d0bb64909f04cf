// One private endpoint and its name in a private DNS zone.

@description('Name of the endpoint.')
param name string

@description('Azure region of the subnet.')
param location string

@description('Tags of every resource.')
param tags object

@description('Resource id of the target.')
param targetId string

@description('Service of the target: account, blob, table, sites.')
param group string

@description('Subnet of the endpoint.')
param subnetId string

@description('Private DNS zones of the service.')
param dnsZoneIds string[]

resource endpoint 'Microsoft.Network/privateEndpoints@2025-05-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    subnet: {
      id: subnetId
    }
    privateLinkServiceConnections: [
      {
        name: group
        properties: {
          privateLinkServiceId: targetId
          groupIds: [group]
        }
      }
    ]
  }
}

resource zoneGroup 'Microsoft.Network/privateEndpoints/privateDnsZoneGroups@2025-05-01' = {
  parent: endpoint
  name: 'default'
  properties: {
    privateDnsZoneConfigs: [
      for id in dnsZoneIds: {
        name: replace(last(split(id, '/')), '.', '-')
        properties: {
          privateDnsZoneId: id
        }
      }
    ]
  }
}
